/*
 * tests/model/lease.pml: who may touch lent memory (DESIGN section 6, Leases). The reference for memnode/lease.h.
 *
 *   FREE -> LEASED            reserve: the memory is zero; capability {lease, incarnation}
 *   LEASED -> ORPHANED        no sign of life for a while: the bytes are KEPT
 *   ORPHANED -> LEASED        any keepalive or traffic under the right capability
 *   LEASED, ORPHANED -> REVOKING   release; ORPHANED -> REVOKING also: tenant gone for orphan_keep
 *   REVOKING -> FREE          operations are refused from the first moment; those under way are waited for
 *                             (every lease_get has its lease_put); zeroed; only then FREE
 *   any -> FREE               the node crashes: connections are gone, memory is new; a restarted node counts leases
 *                             from 1 again and has drawn another incarnation
 *
 *   Each operation checks lease, incarnation and state and becomes a user of the lease in ONE step; the bytes move
 *   later. A check at attach alone is not enough (BUG_CHECK_AT_ATTACH).
 *
 * Two tenants, one piece of memory. Asserted: memory handed out is zero; a read that succeeds returns what this
 * tenant wrote last, never another's bytes and never zeros instead; a write lands only in the writer's lease; a
 * capability is refused only after release, orphan_keep, or a restart: expiry alone destroys nothing.
 * (The 128-bit key is not modelled: it defends against guessing, and nobody here guesses.)
 */
#ifndef RESTARTS
#define RESTARTS 1
#endif
#define LEASES 3 /* drawn per incarnation */
#define TENANTS 2
#define NOBODY 2

#define FREE 0
#define LEASED 1
#define ORPHANED 2
#define REVOKING 3

byte state, holder = NOBODY;
byte lease, incarnation = 1; /* the current lease's number */
byte memory;                 /* 0: zeros; t + 1: tenant t's bytes */
byte users;                  /* operations between check and end */
bool gone[TENANTS];          /* away for longer than orphan_keep since its capability was drawn */

/* What the tenants know. */
byte cap_lease[TENANTS], cap_incarnation[TENANTS], wrote[TENANTS];

#ifdef BUG_NO_INCARNATION
#define CAP_OK(t) (cap_lease[t] == lease)
#else
#define CAP_OK(t) (cap_lease[t] == lease && cap_incarnation[t] == incarnation)
#endif
#ifdef BUG_CHECK_AT_ATTACH
#define LENT true
#else
#define LENT (state == LEASED || state == ORPHANED)
#endif
#define MAY(t) (cap_lease[t] != 0 && CAP_OK(t) && LENT)

/* A refusal must have a reason; then the tenant forgets what it had. */
inline refused(t)
{
	assert(gone[t] || cap_incarnation[t] != incarnation);
	cap_lease[t] = 0;
	cap_incarnation[t] = 0;
	wrote[t] = 0;
	gone[t] = false
}

inline revive()
{
	if
	:: state == ORPHANED -> state = LEASED
	:: else
	fi
}

proctype tenant(byte t)
{
	byte began; /* incarnation the operation under way belongs to: a crash ends it */
	bool writes;

end:	do
	:: d_step {
			cap_lease[t] == 0 && state == FREE && lease < LEASES ->
			lease++;
			state = LEASED;
			holder = t;
			assert(memory == 0);
			cap_lease[t] = lease;
			cap_incarnation[t] = incarnation;
			gone[t] = false;
			wrote[t] = 0
		}
	:: d_step { cap_lease[t] != 0 && MAY(t) -> revive() } /* keepalive */
	:: d_step { cap_lease[t] != 0 && !MAY(t) -> refused(t) }
	:: d_step { /* release */
			MAY(t) && LENT ->
			state = REVOKING;
			cap_lease[t] = 0;
			cap_incarnation[t] = 0;
			wrote[t] = 0
		}
	:: d_step { cap_lease[t] != 0 && !gone[t] -> gone[t] = true } /* a long sleep */
	:: atomic { /* an operation: check */
			MAY(t) ->
			revive();
			began = incarnation;
			users++;
			if
			:: writes = true
			:: writes = false
			fi
		};
		d_step { /* its bytes; its answer; it is no user any more */
			if
			:: began != incarnation -> skip /* the node died under it */
			:: else ->
				assert(holder == t);
				users--;
				if
				:: writes -> memory = t + 1; wrote[t] = t + 1
				:: else -> assert(memory == wrote[t])
				fi
			fi;
			began = 0;
			writes = false
		}
	od
}

/* lease_table_tick and the revocation. */
proctype node()
{
	byte began; /* a crash ends a revocation too */

end:	do
	:: d_step { state == LEASED -> state = ORPHANED }
#ifdef BUG_EXPIRY_DESTROYS
	:: d_step { state == ORPHANED -> state = REVOKING }
#else
	:: d_step { state == ORPHANED && gone[holder] -> state = REVOKING }
#endif
#ifdef BUG_LEND_BEFORE_ZERO
	:: d_step { state == REVOKING && users == 0 -> state = FREE; holder = NOBODY };
		d_step { memory = 0 }
#else
#ifdef BUG_NO_CUT
	:: d_step { state == REVOKING -> memory = 0; began = incarnation };
#else
	:: d_step { state == REVOKING && users == 0 -> memory = 0; began = incarnation };
#endif
		d_step {
			if
			:: began == incarnation -> state = FREE; holder = NOBODY
			:: else
			fi;
			began = 0
		}
#endif
	od
}

proctype crash()
{
	byte n;

	do
	:: d_step {
			n < RESTARTS ->
			n++;
			incarnation++;
			state = FREE;
			holder = NOBODY;
			lease = 0;
			users = 0;
			memory = 0
		}
	:: n == RESTARTS -> break
	od
}

init
{
	atomic {
		run tenant(0);
		run tenant(1);
		run node();
		run crash()
	}
}
