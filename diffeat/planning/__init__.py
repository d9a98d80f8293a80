"""What an extraction will take, before it runs: forwards, operations, time, memory, disk."""
