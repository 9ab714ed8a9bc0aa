"""Training of plane and fusion networks."""
