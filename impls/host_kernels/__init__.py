"""What backends share that runs on the host: bookkeeping and refusals, no arithmetic."""
