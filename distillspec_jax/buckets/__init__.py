"""Object stores: what a run reads there is copied here once, what it writes there is published by commits."""
