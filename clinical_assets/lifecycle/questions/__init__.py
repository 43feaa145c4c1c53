"""What the sensor of a model asks at each look, a file a question: facts in, a request for a run or a reason out.

Belongs here: questions as pure functions of facts. Does not belong here: where the facts come from, how often one
looks, and how a request becomes a run (model_watch.py).
"""
