"""The machine: processes, memory, energy, signals, and one function over many items."""
