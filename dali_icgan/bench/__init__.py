"""Benchmarks that anybody can run on own machine and files."""
