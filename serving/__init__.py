"""How models are exported, pushed, served and called; importing this package is light."""
