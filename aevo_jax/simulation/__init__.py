"""Whole campaigns on a response surface in place of training, through the functions the controller
uses: power, false alarms and regret of agents and verdicts
"""
