"""Forecasts: disk, memory and speed of a model before it is downloaded."""
