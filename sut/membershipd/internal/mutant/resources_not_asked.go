//go:build mutant && mutant_resources_not_asked

package mutant

// Planted is the bug of this build: a node to which a route is new is not asked for its resources. It tells them within ten seconds, as nodes do anyway, and until
// then every stream that needs a replica on it is refused.
const Planted = ResourcesNotAsked
