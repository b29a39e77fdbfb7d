"""Checks that a model computes what its class and its family say, before anything is measured."""
