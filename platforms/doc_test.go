// Package platforms checks the examples at the top of the repository for platforms that run containers (Fly.io, Heroku,
// Amazon ECS): that they hold no key which the platform does not document, that they keep its rules, that they set
// nothing which no image reads, and that there is no secret in them.
//
// Each platform has a function that names the faults of a configuration. The examples must have none; a table of broken
// ones shows that each fault is found. For Amazon ECS the platform's own tools look too.
package platforms
