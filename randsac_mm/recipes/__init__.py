"""Recipes: from a folder of a user's to an ordinary config and its run, by rules that are data."""

from .training import run_recipe

__all__ = ['run_recipe']
