"""Losses, one pure step a stage, state, the loop around them."""
