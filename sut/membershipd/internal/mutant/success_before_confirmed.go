//go:build mutant && mutant_success_before_confirmed

package mutant

// Planted is the bug of this build: the control API answers that a user is changed when the write was sent, and not when it was confirmed: a write that lost a race was
// refused, and nobody hears of it.
const Planted = SuccessBeforeConfirmed
