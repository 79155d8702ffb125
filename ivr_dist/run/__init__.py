"""Run records in storage: attempts, ledgers, heartbeats, driver lease, events, results."""
