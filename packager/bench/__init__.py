"""Measuring a server: what is asked (workload), who asks and takes the time (client), what it comes to (report)."""
