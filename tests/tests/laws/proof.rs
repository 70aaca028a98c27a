//! Law 1: the agent takes connections only while it has proved that it can serve them.
