//! The agent and the command line of the load balancer.
