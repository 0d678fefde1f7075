"""Media relays: their wire protocols, health, placement of calls, plans. No I/O."""
