"""Campaigns on a response surface in place of training, through the controller's own functions.

They measure power, false alarms and regret of agents and verdicts.
"""
