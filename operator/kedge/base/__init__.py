"""What everything else stands on: errors, ids, timers, addresses. No I/O, no clock of its own."""
