"""HTML reports and figures made from findings; nothing is computed here that a finding does not hold."""
