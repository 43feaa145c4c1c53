"""The evidence that goes with every version: what a regulator, a reviewer or a buyer asks of a clinical model."""
