"""HTML reports, exhibits and figures, made from findings and scored rows; no metric is computed here."""
