"""What Runstream is measured beside. Each is as its own documentation has it."""
