//! Types shared by the agent and its BPF programs.
#![cfg_attr(not(test), no_std)]
