//! Law 2: what one caller does is never booked on a server, nor paid for by another caller.
