"""What a monitoring system reads of the platform: figures, alert rules and boards, made from the protocols."""
