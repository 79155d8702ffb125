"""What happens beside training, one concern a module."""
