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
INTENT_ANNOTATION: Final = f"{GROUP}/intent"
"""On relay pods: what is wanted of the relay, ``Drain`` or ``Cordon``."""
