"""Arrays to arrays: the loaded model, what it takes, and how requests share its passes. No HTTP."""
