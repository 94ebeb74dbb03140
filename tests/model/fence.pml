/*
 * tests/model/fence.pml: a write without a good completion may still land later (DESIGN section 6, Fences).
 * The reference for slot quarantine (slot.c, spanset.c), fabric_fence (rpc/fabric.h) and lease_fence (memnode).
 *
 *   slot, at the client                        by
 *   FREE -> POSTED                             a write is posted on the connection of lease epoch `mine`
 *   POSTED -> USED                             its acknowledgement: stored
 *   POSTED -> QUARANTINED                      its completion is bad: timeout or reset. The region is broken:
 *                                              nothing more is posted, no acknowledgement counts any more
 *   QUARANTINED -> FREE                        a fence was answered with an epoch LATER than `mine`
 *   USED -> FREE                               nobody needs the bytes
 *   a fence that fails: the column is written off, its slots are never used again
 *
 *   node: a server thread takes a message off its connection, checks the connection's epoch and becomes busy in one
 *   step (lease_get), stores later, then acknowledges. A fence raises the epoch FIRST, then waits until no thread
 *   of an older epoch is busy, then answers. What is still in old sockets is refused when it is read.
 *
 *   The client may ask again when an answer is late; answers carry the epoch, and one that is not later than the
 *   connection the doubtful writes went out on proves nothing (BUG_STALE_ANSWER).
 *
 * Asserted: a USED slot holds what was acknowledged, at any time, until it is freed.
 */
#define SLOTS 2
#ifndef EPOCHS
#define EPOCHS 2 /* fences a run may see */
#endif
#define ASKS 2   /* fence requests on their way at once */

#define FREE 0
#define POSTED 1
#define USED 2
#define QUARANTINED 3

byte content[SLOTS];                     /* at the node */
byte epoch;                              /* of the lease, at the node */
bool busy[EPOCHS + 1];                   /* server thread of connection e is between check and store */
chan wire[EPOCHS + 1] = [2] of { byte, byte };
chan acks[EPOCHS + 1] = [2] of { byte };
chan fence_ask = [ASKS] of { bit };
chan fence_answer = [ASKS] of { byte };

byte state[SLOTS], expected[SLOTS], last[SLOTS];
byte mine;  /* epoch of the client's connection */
bool up = true;

#define CHECK(s) assert(state[s] != USED || content[s] == expected[s])

proctype server(byte connection)
{
	byte slot, value;

end:	do
	:: d_step {
			wire[connection]?slot, value;
			busy[connection] = (epoch == connection)
		};
		if
		:: busy[connection] ->
			d_step {
				if /* what nobody expects need not be told apart */
				:: state[slot] == POSTED || state[slot] == USED -> content[slot] = value; CHECK(slot)
				:: else
				fi;
				busy[connection] = false;
				/* an acknowledgement that comes too late is lost */
				if
				:: up && mine == connection -> acks[connection]!slot
				:: else
				fi
			}
		:: !busy[connection]
		fi;
		d_step { slot = 0; value = 0 }
	od
}

proctype fencer()
{
	byte next, e;

end:	do
	:: fence_ask?_ ->
#ifndef BUG_FENCE_KEEPS_EPOCH
		d_step {
			if
			:: epoch < EPOCHS ->
				do /* what is still in the older socket will be refused: as good as gone */
				:: nempty(wire[epoch]) -> wire[epoch]?_, _
				:: empty(wire[epoch]) -> break
				od;
				epoch++
			:: else
			fi
		};
#endif
		next = epoch;
#ifdef BUG_FENCE_KEEPS_EPOCH
		next = (next < EPOCHS -> next + 1 : next);
#endif
		e = 0;
#ifndef BUG_FENCE_NO_DRAIN
		do
		:: e < next && !busy[e] -> e++
		:: e == next -> break
		od;
#endif
#ifdef BUG_FENCE_KEEPS_EPOCH
		epoch = next; /* too late: what passed the check meanwhile is not waited for */
#endif
		fence_answer!next;
		d_step { next = 0; e = 0 }
	od
}

inline post(s)
{
	d_step {
		up && state[s] == FREE && nfull(wire[mine]) ->
		last[s] = 1 - last[s];
		state[s] = POSTED;
		wire[mine]!s, last[s]
	}
}

proctype client()
{
	byte s, answer;

end:	do
	:: post(0)
	:: post(1)
	:: d_step { state[0] == USED -> CHECK(0); state[0] = FREE; expected[0] = 0; content[0] = 0 }
	:: d_step { state[1] == USED -> CHECK(1); state[1] = FREE; expected[1] = 0; content[1] = 0 }
	:: up && nempty(acks[mine]) ->
		d_step {
			acks[mine]?s;
			if
			:: state[s] == POSTED -> state[s] = USED; expected[s] = last[s]; CHECK(s)
			:: else
			fi;
			s = 0
		}
	:: d_step { /* deadline or reset: everything in flight is in doubt */
			up && (state[0] == POSTED || state[1] == POSTED) ->
#ifdef BUG_NO_QUARANTINE
			state[0] = (state[0] == POSTED -> FREE : state[0]);
			state[1] = (state[1] == POSTED -> FREE : state[1])
#else
			up = false;
			do
			:: nempty(acks[mine]) -> acks[mine]?_
			:: empty(acks[mine]) -> break
			od;
			content[0] = (state[0] == POSTED -> 0 : content[0]);
			content[1] = (state[1] == POSTED -> 0 : content[1]);
			state[0] = (state[0] == POSTED -> QUARANTINED : state[0]);
			state[1] = (state[1] == POSTED -> QUARANTINED : state[1])
#endif
		}
	:: d_step { !up && mine < EPOCHS && nfull(fence_ask) -> fence_ask!0 }
	:: !up && nempty(fence_answer) ->
		d_step {
			fence_answer?answer;
			if
#ifdef BUG_STALE_ANSWER
			:: true ->
#else
			:: answer > mine ->
#endif
				mine = answer;
				up = true;
				state[0] = (state[0] == QUARANTINED -> FREE : state[0]);
				state[1] = (state[1] == QUARANTINED -> FREE : state[1])
#ifndef BUG_STALE_ANSWER
			:: else
#endif
			fi;
			answer = 0
		}
	od
}

init
{
	byte c;

	atomic {
		c = 0;
		do
		:: c <= EPOCHS -> run server(c); c++
		:: else -> break
		od;
		run fencer();
		run client()
	}
}
