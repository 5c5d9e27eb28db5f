"""Evaluations of trained models: accuracy, robustness, invariance, probes, and two models side by side. See docs/evaluation.md."""
