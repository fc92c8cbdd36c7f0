//! A child process: group, signals, output, bounded waits, reaping.
