"""What a spiking network does and why: accuracy, operations, statistics, errors."""
