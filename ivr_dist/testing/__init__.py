"""Contract suites: tests that a class outside the package inherits to check itself against its protocol."""
