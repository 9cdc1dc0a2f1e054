"""Real processes on loopback: caxton's membership beside memberlist's, same faults; see README.md."""
