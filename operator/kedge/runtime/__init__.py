"""What runs: the signaling loop with its sockets and timers, bookkeeping, threads. asyncio begins here."""
