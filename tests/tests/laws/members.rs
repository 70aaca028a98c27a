//! Law 3: only objects that the control plane itself writes decide who is a member.
