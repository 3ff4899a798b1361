"""`colonnade bench`: how fast a model runs here, against what, and where its time goes.

spec.py says what to measure, feeds.py gets the batch, contest.py lets contenders take turns, and
measure.py makes of it the Report of report.py. table.py prints that; page.py draws it, with
network.py and courses.py. folding.py shows layers that are alike once.
"""
