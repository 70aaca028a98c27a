//! Which servers exist: a static list, or Kubernetes' own EndpointSlices and Leases.
