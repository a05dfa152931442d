//go:build mutant && mutant_room_revoke_open

package mutant

// Planted is the bug of this build: who is taken out of a room keeps on open connections what the room gave. It holds from the next login on.
const Planted = RoomRevokeOpen
