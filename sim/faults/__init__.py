"""Faults as data: shapes of partitions, kinds of faults, schedules, the drawing of them, and budgets."""
