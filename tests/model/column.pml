/*
 * tests/model/column.pml: replacing a column of a group (DESIGN section 6, Group; section 7, Repair and Drain). The
 * reference for farmem/agent/column.c (the agent), farmem/lane.c and spanset_fetch.c (readers), spanset_store.c
 * (writers).
 *
 *   column: lost | generation | repair (entry + 1, or 0) | places[generation & 1]: cur, the other one: next
 *   entry:  generation at the start | done bit per slot | doubt
 *
 *   agent:  close the group -> (lost) -> next place, done bits, entry, repair
 *           -> the group is QUIET: no thread is `storing` into it -> scan: records whose slot is not done: Rebuild
 *           -> a whole scan found nothing undone -> fence of next, if any call's outcome is in doubt
 *           -> generation + 1 -> lost = 0 -> repair = 0 -> entry free -> old lease released -> open the group
 *           It may die between any two steps; its successor has the catalog only, and doubts everything that ran.
 *   node:   a Rebuild reads its source, checks the CRC, stores (perhaps long after the agent gave up on it), answers
 *   writer: storing = group -> is it open? -> column well, its place -> write -> record -> storing = none
 *           A write that is in doubt keeps its slot until it cannot land in cur any more.
 *   reader: lost? else generation, place, generation again; lost: next, if the slot is done. A read that failed
 *           goes again when the generation has changed, else degraded: from the survivors.
 *
 * One column under repair; the survivors of a spanset (any k others) are one more place that does not fail: with two
 * columns in repair at a time each is the other's reader. SLOTS slots, versions 1 and 2 by turns in each, 0: not
 * these bytes. A lease is drawn once and never again (rpc/fabric.h), so a place is a lease's number.
 *
 * Asserted: the bytes of every read that succeeds are right without any help of the CRC, which would find them wrong
 * in every broken variant below (what the CRC is for is bytes that change by themselves); after the commit no record
 * misses its bytes; no Rebuild lands on bytes of a later record; a place is never copied while it is written; a drain
 * makes no read degraded; nothing is stuck.
 */
#ifndef SLOTS
#define SLOTS 1
#endif
#ifndef DRAINS
#define DRAINS 1 /* copies that begin */
#endif
#ifndef CRASHES
#define CRASHES 1 /* nodes that die, be it cur's or next's */
#endif
#ifndef DEATHS
#define DEATHS 1 /* of the agent */
#endif
#ifndef TIMEOUTS
#define TIMEOUTS 1 /* calls that the agent gives up on */
#endif
#ifndef LATE_WRITES
#define LATE_WRITES 0 /* writes of the writer that are in doubt */
#endif
#define LEASES 3
#define ENTRIES 2
#define CALLS 2 /* at nodes at once */
#define NONE 7
#define TORN 6   /* half of one place, half of another */
#define MIXED 5  /* two capabilities of one lease, before and after a fence: the node refuses it */

/* A lease's life. */
#define UNBORN 0
#define LENT 1
#define GONE 2 /* released, or its node died */

/* ---- the catalog ---- */
bool open = true, lost;
byte generation;
byte repair;
byte place[2] = NONE;
bool entry_active[ENTRIES];
byte entry_generation[ENTRIES];
bool entry_copy[ENTRIES]; /* else: decode */
bool entry_doubt[ENTRIES];
bool done[ENTRIES * SLOTS];
bool storing;
byte record[SLOTS]; /* its version, or 0: none */

/* ---- the nodes ---- */
byte life[LEASES];
byte content[LEASES * SLOTS];
byte survivors[SLOTS];
/* Rebuild calls: 0 none, 1 begun, 2 its source was read, 3 stored: answer on its way */
byte call_state[CALLS], call_slot[CALLS], call_version[CALLS], call_lease[CALLS];
byte call_from[CALLS]; /* copy: the lease; decode: NONE */
bool call_heeded[CALLS]; /* somebody still waits for the answer */

/* ---- the runtime's own ---- */
bool used[SLOTS], pinned[SLOTS];
byte last_version[SLOTS];
byte late_lease, late_slot, late_version, late_generation; /* a write in doubt */
bool quarantined;

bool degraded_allowed; /* a node died: a read may be degraded */
bit turn;              /* which entry is next: the one that was free for longest */
bool dying;
bool direct; /* a reader found cur well, and has not read yet */
byte crashes, deaths, timeouts, drains, late_writes;

#define CUR place[generation & 1]
#define NEXT place[(generation + 1) & 1]
#define AT(lease, slot) ((lease) * SLOTS + (slot))
#define BIT(entry, slot) ((entry) * SLOTS + (slot))

/* ---- writer, and who frees records ---- */

proctype writer()
{
	byte s, l, g;

end:	do
#ifdef BUG_CHECK_BEFORE_HAZARD
	:: open -> storing = true;
#else
	:: storing = true;
		if
		:: !open -> goto leave
		:: open
		fi;
#endif
		if
		:: lost -> goto leave
		:: !lost
		fi;
		d_step { g = generation; l = CUR };
		/* a free slot */
		d_step {
			s = 0;
			do
			:: s < SLOTS && used[s] -> s++
			:: else -> break
			od;
			if
			:: s < SLOTS -> used[s] = true; last_version[s] = 3 - last_version[s]
			:: else -> s = NONE
			fi
		};
		if
		:: s == NONE -> goto leave
		:: else
		fi;
		d_step { survivors[s] = last_version[s] };
		if
		:: d_step { life[l] == LENT -> content[AT(l, s)] = last_version[s] };
			record[s] = last_version[s] /* all acknowledged: published */
		:: d_step { life[l] != LENT -> used[s] = false }
#if LATE_WRITES > 0
		:: d_step { /* no acknowledgement came: the slot goes to quarantine */
				late_writes < LATE_WRITES ->
				late_writes++;
				late_lease = l;
				late_slot = s;
				late_version = last_version[s];
				late_generation = g;
				quarantined = true
			}
#endif
		fi;
leave:		storing = false;
		d_step { s = 0; l = 0; g = 0 }
	:: d_step { record[0] != 0 && !pinned[0] -> record[0] = 0; used[0] = false }
#if SLOTS > 1
	:: d_step { record[1] != 0 && !pinned[1] -> record[1] = 0; used[1] = false }
#endif
#if LATE_WRITES > 0
	:: d_step { /* lane_settle: fenced, or the place is not the column's any more and nobody reads it */
#ifdef BUG_DOUBT_FORGOTTEN
			quarantined ->
#else
			quarantined && (lost || generation != late_generation) ->
#endif
			used[late_slot] = false;
			quarantined = false
		}
	:: d_step {
			quarantined && !lost && CUR == late_lease ->
			used[late_slot] = false;
			quarantined = false;
			late_version = 0
		}
#endif
	od
}

#if LATE_WRITES > 0
proctype late_write()
{
end:	do
	:: d_step {
			late_version != 0 ->
			content[AT(late_lease, late_slot)] =
				(life[late_lease] == LENT -> late_version : content[AT(late_lease, late_slot)]);
			late_version = 0
		}
	od
}
#endif

/* ---- reader ---- */

proctype reader()
{
	byte s, l, g, r;

end:	do
	:: d_step {
			if
			:: record[0] != 0 -> s = 0
#if SLOTS > 1
			:: record[1] != 0 -> s = 1
#endif
			fi;
			pinned[s] = true
		};
again:		g = generation;
		if
		:: d_step { !lost -> direct = true };
			g = generation; /* once more: a column found well again shows its new one */
			l = place[g & 1];
			d_step {
				if
				:: generation == g -> assert(l == place[g & 1] && l != TORN)
				:: else -> l = NONE
				fi
			};
			if
#ifndef BUG_NO_RETRY
			:: l == NONE -> direct = false; goto again
#else
			:: l == NONE -> goto degraded
#endif
			:: else
			fi
		:: lost ->
			r = repair;
			if
			:: r == 0 || !done[BIT(r - 1, s)] -> goto degraded
			:: else
			fi;
#ifdef BUG_NEXT_BY_GENERATION
			g = generation; /* perhaps bumped already, and repair not yet 0: that place is the old one */
			l = place[(g + 1) & 1];
			d_step { l = (repair == r && generation == g -> l : NONE) };
#else
			l = place[(entry_generation[r - 1] + 1) & 1]; /* next, and cur after the bump */
			d_step {
				if
				:: repair == r -> assert(l == MIXED || l == place[(entry_generation[r - 1] + 1) & 1])
				:: else -> l = NONE
				fi
			};
#endif
			assert(l != TORN);
			if
			:: l == NONE -> goto degraded
			:: else
			fi
		fi;
		if /* the read */
		:: d_step { l != MIXED && life[l] == LENT -> assert(content[AT(l, s)] == record[s]) }
		:: l == MIXED || life[l] != LENT ->
			if
#ifndef BUG_NO_RETRY
			:: generation != g -> direct = false; goto again
#endif
			:: else -> goto degraded
			fi
		fi;
		goto over;
degraded:	direct = false;
		assert(degraded_allowed && survivors[s] == record[s]);
over:		skip;
		d_step { direct = false; pinned[s] = false; s = 0; l = 0; g = 0; r = 0 }
	od
}

/* ---- nodes ---- */

inline call_end(c)
{
	call_state[c] = 0;
	call_slot[c] = 0;
	call_version[c] = 0;
	call_lease[c] = 0;
	call_from[c] = 0;
	call_heeded[c] = false
}

proctype rebuild(byte c)
{
end:	do
	:: d_step { /* the source: the survivors, or cur; its CRC */
			call_state[c] == 1 ->
			if
			:: call_from[c] == NONE && survivors[call_slot[c]] == call_version[c] -> call_state[c] = 2
			:: call_from[c] != NONE && life[call_from[c]] == LENT &&
				content[AT(call_from[c], call_slot[c])] == call_version[c] -> call_state[c] = 2
			:: else -> call_end(c)
			fi
		}
	:: d_step { /* whenever it gets there */
			call_state[c] == 2 ->
			if
			:: life[call_lease[c]] == LENT ->
				assert(call_lease[c] != CUR || record[call_slot[c]] == 0 ||
					record[call_slot[c]] == call_version[c]);
				content[AT(call_lease[c], call_slot[c])] = call_version[c];
				if
				:: call_heeded[c] -> call_state[c] = 3
				:: else -> call_end(c)
				fi
			:: else -> call_end(c)
			fi
		}
	od
}

#define DIE(l)                                                                                                         \
	life[l] = GONE;                                                                                                \
	content[AT(l, 0)] = 0;                                                                                         \
	content[AT(l, SLOTS - 1)] = 0

proctype chaos()
{
end:	do
	:: d_step { crashes < CRASHES && life[CUR] == LENT -> crashes++; degraded_allowed = true; DIE(CUR) }
	:: d_step {
			crashes < CRASHES && repair != 0 && NEXT < LEASES && life[NEXT] == LENT ->
			crashes++;
			degraded_allowed = true;
			DIE(NEXT)
		}
	od
}

/* ---- agent ---- */

/* What this lease's node still works on: over by a Fence, or by the lease's end. */
inline end_calls(l)
{
	if
	:: call_state[0] != 0 && call_lease[0] == l -> call_end(0)
	:: else
	fi;
	if
	:: call_state[1] != 0 && call_lease[1] == l -> call_end(1)
	:: else
	fi
}

#define HELD(l, s) (record[s] == 0 || content[AT(l, s)] == record[s])
#define SPARE_LEASE (life[1] == UNBORN || life[2] == UNBORN)

proctype agent()
{
	byte e, s, l, c;
	bool undone;

boot:	{
		/* Everything there is to know is in the catalog. */
		do
		:: e < ENTRIES && entry_active[e] && repair == e + 1 -> break
		:: e < ENTRIES && entry_active[e] && repair != e + 1 -> entry_active[e] = false; e++
		:: e < ENTRIES && !entry_active[e] -> e++
		:: e == ENTRIES -> e = 0; goto idle
		od;
		if
#ifndef BUG_NO_GENERATION
		:: entry_generation[e] != generation -> goto bumped
#endif
		:: else
		fi;
#ifndef BUG_NO_DOUBT
		entry_doubt[e] = true;
#endif
		goto scan;

idle:		skip; /* here repair is 0 */
end:		if
		:: d_step { NEXT < LEASES && life[NEXT] == LENT -> l = NEXT; DIE(l); end_calls(l); l = 0 } /* Release */
		:: !lost && life[CUR] != LENT -> open = false; lost = true
		:: d_step { /* alive, but nobody could reach it for too long */
				!lost && crashes < CRASHES && SPARE_LEASE ->
				crashes++;
				degraded_allowed = true;
				open = false
			};
			lost = true
		:: lost && SPARE_LEASE -> goto begin
		:: d_step { !lost && drains < DRAINS && SPARE_LEASE -> drains++; open = false };
			goto begin
		:: d_step { !lost && !open && (NEXT >= LEASES || life[NEXT] != LENT) -> open = true }
		fi;
		goto idle;

begin:		skip;
		if /* what is lost may be anything by now */
		:: d_step {
				lost && life[CUR] == LENT && !direct ->
				content[AT(CUR, 0)] = 0;
				content[AT(CUR, SLOTS - 1)] = 0
			}
		:: true
		fi;
		skip;
		d_step { /* Reserve */
			l = (life[1] == UNBORN -> 1 : 2);
			life[l] = LENT
		};
		NEXT = TORN;
		NEXT = l;
#ifdef BUG_SAME_ENTRY
		e = 0;
#else
		d_step { e = turn; turn = 1 - turn };
#endif
		d_step {
			done[BIT(e, 0)] = false;
			done[BIT(e, SLOTS - 1)] = false;
			entry_generation[e] = generation;
			entry_doubt[e] = false;
			entry_copy[e] = !lost;
			entry_active[e] = true
		};
		repair = e + 1;
#ifdef BUG_RELEASE_EARLY
		d_step { l = CUR; DIE(l) };
#endif

scan:		skip;
#ifdef BUG_OPEN_EARLY
		open = true;
#endif
#if !defined(BUG_NO_HAZARD) && !defined(BUG_SCAN_BEFORE_QUIET)
		!storing;
#endif
		d_step { s = 0; undone = false; l = NEXT };
		do
		:: d_step { s < SLOTS && (record[s] == 0 || done[BIT(e, s)]) -> s++ }
		:: s < SLOTS && record[s] != 0 && !done[BIT(e, s)] ->
			undone = true;
			if
			:: life[CUR] != LENT && !lost -> lost = true; entry_copy[e] = false
			:: else
			fi;
			d_step {
				c = (call_state[0] == 0 -> 0 : 1);
				if
				:: call_state[c] == 0 && record[s] != 0 ->
					call_state[c] = 1;
					call_slot[c] = s;
					call_version[c] = record[s];
					call_lease[c] = l;
					call_from[c] = (entry_copy[e] -> CUR : NONE);
					call_heeded[c] = true
				:: else
				fi
			};
#ifdef BUG_DONE_EARLY
			done[BIT(e, s)] = true;
#endif
			if
			:: d_step { call_state[c] == 3 -> done[BIT(e, s)] = true; call_end(c) }
			:: call_state[c] == 0 || !call_heeded[c] /* refused, or none was begun */
			:: d_step { /* it gives up; the node may not */
					timeouts < TIMEOUTS && call_heeded[c] ->
					timeouts++;
					entry_doubt[e] = true;
					call_heeded[c] = false;
					if
					:: call_state[c] == 3 -> call_end(c)
					:: else
					fi
				}
			fi;
			d_step { c = 0; s++ }
		:: s == SLOTS -> break
		od;
		skip;
		d_step { s = 0; l = 0 };
		if
		:: life[NEXT] != LENT -> /* abort; nothing of it can be read or written any more */
			repair = 0;
			d_step { entry_active[e] = false; l = NEXT; end_calls(l); l = 0; e = 0; undone = false };
			goto idle
		:: else
		fi;
#ifndef BUG_COMMIT_EARLY
		if
		:: undone -> goto scan
		:: else
		fi;
#endif
#ifdef BUG_SCAN_BEFORE_QUIET
		if
		:: storing -> !storing; goto scan
		:: else
		fi;
#endif
		undone = false;
#ifndef BUG_NO_FENCE
		if
		:: entry_doubt[e] -> /* column_renew: the lease has a new epoch */
			d_step { l = NEXT; end_calls(l) };
			repair = 0;
			NEXT = MIXED;
			NEXT = l;
			d_step { entry_doubt[e] = false; l = 0 };
			repair = e + 1
		:: else
		fi;
#endif
#ifdef BUG_LOST_FIRST
		lost = false;
#endif
		d_step {
			generation++;
			assert(life[CUR] != LENT || (HELD(CUR, 0) && HELD(CUR, SLOTS - 1)))
		};
bumped:		skip;
		lost = false;
		repair = 0;
		d_step { entry_active[e] = false; e = 0 };
		goto idle
	}
	unless { d_step {
			dying ->
			dying = false;
			e = 0;
			s = 0;
			l = 0;
			c = 0;
			undone = false;
			call_heeded[0] = false;
			call_heeded[1] = false;
			if
			:: call_state[0] == 3 -> call_end(0)
			:: else
			fi;
			if
			:: call_state[1] == 3 -> call_end(1)
			:: else
			fi
		};
		goto boot
	}
}

proctype killer()
{
end:	do
	:: d_step { deaths < DEATHS && !open && !dying -> deaths++; dying = true }
	od
}

init
{
	d_step {
		life[0] = LENT;
		place[0] = 0;
		last_version[0] = 2;
		last_version[SLOTS - 1] = 2
	};
	atomic {
		run writer();
#if LATE_WRITES > 0
		run late_write();
#endif
		run reader();
		run rebuild(0);
		run rebuild(1);
		run chaos();
		run agent();
		run killer()
	}
}
