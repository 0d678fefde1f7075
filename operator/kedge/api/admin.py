"""The section ``admin`` of the settings file: where the admin API listens, and which tokens open it."""

from ipaddress import ip_address
from typing import Annotated, ClassVar

from pydantic import StringConstraints

from kedge.api.model import IpAddress, ListenPort, Model, Rule

TokenFilePath = Annotated[str, StringConstraints(max_length=4096)]
"""The path of a file with tokens, one a line."""


class Admin(Model):
    """The API that the command line, the operator and the agents of relays talk to. It reads, moves and ends calls."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.tokenFile != '' || ip(self.address).isLoopback()",
            message="is needed unless address is a loopback address: others could reach calls there",
            field="tokenFile",
            check=lambda self: bool(self.token_file) or ip_address(self.address).is_loopback,
        ),
        Rule(
            cel="self.tokenFile != '' || self.reportTokenFile == ''",
            message="needs tokenFile: without it no token is asked for",
            field="reportTokenFile",
            check=lambda self: bool(self.token_file) or not self.report_token_file,
        ),
    )

    address: IpAddress = "127.0.0.1"
    """The address to bind to."""
    port: ListenPort = 8080
    """The port to bind to; 0 takes any free one."""
    token_file: TokenFilePath = ""
    """A file with the tokens that open the API, one a line; it is read again when it changes. The operator sends the
    first of them. When empty, no token is asked for."""
    report_token_file: TokenFilePath = ""
    """A file with tokens for reports of agents alone (POST /v1/evidence), of the same form; none when empty."""
