//! The identity module from outside: certificates, callers, headers.

mod callers;
mod certificates;
mod headers;
mod hostile;
mod openssl;
mod own;
mod shapes;
