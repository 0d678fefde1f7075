"""What people write: the RelaySet and Call resources, and the settings file of a signaling process.

The models are the single source: ``crds/`` is generated from them, and standalone files are read
with them, so that a cluster and a file agree on every field, default and rule. They hold no
behaviour beyond validation; what is done with a RelaySet is decided in other packages.
"""
