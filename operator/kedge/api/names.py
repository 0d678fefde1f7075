"""Names that Kedge puts on Kubernetes objects: group, version, labels and annotations."""

from typing import Final

GROUP: Final = "kedge.media"
VERSION: Final = "v1alpha1"
API_VERSION: Final = "kedge.media/v1alpha1"

RELAYSETS: Final = "relaysets"
"""Plural of RelaySet, as in the API server's paths."""
CALLS: Final = "calls"
"""Plural of Call, as in the API server's paths."""

RELAYSET_LABEL: Final = f"{GROUP}/relayset"
"""On relay pods and Calls: the RelaySet that they belong to."""
RELAY_LABEL: Final = f"{GROUP}/relay"
"""On Calls: the relay that carries the media."""
REPLICA_LABEL: Final = f"{GROUP}/replica"
"""On Calls: the signaling process that has the call, and alone writes the object."""
DRAIN_ANNOTATION: Final = f"{GROUP}/drain"
"""On relay pods: move the relay's calls away and give it no new ones. Any value but ``false``."""
CORDON_ANNOTATION: Final = f"{GROUP}/cordon"
"""On relay pods: give the relay no new calls. Any value but ``false``."""
EXTERNAL_IP_ANNOTATION: Final = f"{GROUP}/external-ip"
"""On relay pods, by the operator: the external addresses of its node, with commas between."""
SCALE_IN_ANNOTATION: Final = f"{GROUP}/scale-in"
"""On relay pods, by the operator: since when (RFC 3339) it is to go as its set shrinks. Its calls move away."""
REBALANCE_ANNOTATION: Final = f"{GROUP}/rebalance"
"""On a RelaySet: even out its calls once. The time of the wish (RFC 3339); another value is another wish."""
