//! Law 4: what the agent says of itself is what the kernel does.
