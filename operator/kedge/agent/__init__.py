"""The agent beside a relay: holds the end of its pod until the calls have left, and watches its media interface."""
