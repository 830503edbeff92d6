"""What the real logs must lead to, worked out a second time: imports nothing of Lapse."""
