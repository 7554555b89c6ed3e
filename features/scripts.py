"""The Lua scripts that write the store, generated from a layout.

A script is isolated but not rolled back: each checks everything first and then only writes, with
commands that cannot fail. Deltas and progress move in the same script, and only from where
progress stands.
"""

from __future__ import annotations

from tenuto.features.layout import HEAD_BYTES, Layout, Ring, View
from tenuto.features.progress import ENTRY_BYTES

# BITFIELD takes four arguments an operation; Lua's unpack fails above some 8,000 of them.
_MAX_ARGUMENTS = 1_000

APPLY = """
-- KEYS: progress, then one key per entity.
-- ARGV: entry offset, incarnation, start, end, chunks, chunk, arrival at end, then one packed
--       delta per entity.
-- Returns {1, entry} when applied, {0, entry} when progress stands elsewhere.
local LAYOUT = @LAYOUT@
local ENTRY = @ENTRY@
local at = tonumber(ARGV[1])
local entry = redis.call('GETRANGE', KEYS[1], at, at + ENTRY - 1)
if #entry < ENTRY or string.sub(entry, 1, 16) ~= ARGV[2] then return {0, entry} end
local start, stop = tonumber(ARGV[3]), tonumber(ARGV[4])
local chunks, chunk = tonumber(ARGV[5]), tonumber(ARGV[6])
local nxt, arrival, rebuild, batch_end, had_chunks, done =
  struct.unpack('<i8i8i8i8I4I4', entry, 33)
if nxt ~= start or done ~= chunk then return {0, entry} end
if batch_end ~= 0 and (batch_end ~= stop or had_chunks ~= chunks) then return {0, entry} end
if batch_end == 0 and chunk ~= 0 then return {0, entry} end

-- A key of a wrong type or a foreign length fails here, before anything is written.
local heads = {}
for i = 2, #KEYS do
  local view = LAYOUT[string.byte(ARGV[i + 6], 1) + 1]
  local size = redis.call('STRLEN', KEYS[i])
  if size ~= 0 and size ~= view.size then
    return redis.error_reply('TENUTO ' .. KEYS[i] .. ' has ' .. size .. ' bytes, not ' .. view.size)
  end
  if size ~= 0 then heads[i] = redis.call('GETRANGE', KEYS[i], 0, view.header - 1) end
end

for i = 2, #KEYS do
  local key, packed = KEYS[i], ARGV[i + 6]
  local view = LAYOUT[string.byte(packed, 1) + 1]
  local old = heads[i]
  if not old then redis.call('SETRANGE', key, view.size - 1, '\\0') end
  local new, ops, n, pos = {}, {'OVERFLOW', 'SAT'}, 2, 2
  local moved = false
  for w = 1, #view.rings do
    local ring = view.rings[w]
    local head = old and struct.unpack('>I4', old, 4 * w - 3) or 0
    local tiles = struct.unpack('>I2', packed, pos)
    pos = pos + 2
    local length, slot = ring.length, ring.slot
    if tiles > 0 then
      -- Tiles ascend: the last is the newest. Slots jumped over are zeroed before anything is
      -- added, so that what falls out with it is dropped by the same rule as a late delta.
      local newest = struct.unpack('>I4', packed, pos + (tiles - 1) * ring.record) + 1
      if newest > head then
        if head > 0 then
          if newest - head >= length then
            redis.call('SETRANGE', key, ring.base, string.rep('\\0', length * slot))
          else
            local from, to = head % length, newest % length
            if from < to then
              redis.call('SETRANGE', key, ring.base + from * slot,
                         string.rep('\\0', (to - from) * slot))
            else
              redis.call('SETRANGE', key, ring.base + from * slot,
                         string.rep('\\0', (length - from) * slot))
              if to > 0 then
                redis.call('SETRANGE', key, ring.base, string.rep('\\0', to * slot))
              end
            end
          end
        end
        head, moved = newest, true
      end
      for _ = 1, tiles do
        local row = {struct.unpack(ring.format, packed, pos)}
        pos = pos + ring.record
        local tile = row[1]
        if tile + 1 > head - length then
          local bit = 8 * (ring.base + (tile % length) * slot)
          for c = 1, #ring.types do
            if row[c + 1] ~= 0 then
              ops[n + 1], ops[n + 2] = 'INCRBY', ring.types[c]
              ops[n + 3], ops[n + 4] = bit + ring.bits[c], row[c + 1]
              n = n + 4
            end
          end
          if n > @MAX@ then
            redis.call('BITFIELD', key, unpack(ops))
            ops, n = {'OVERFLOW', 'SAT'}, 2
          end
        end
      end
    end
    new[w] = head
  end
  if n > 2 then redis.call('BITFIELD', key, unpack(ops)) end
  if moved then
    local packed_heads = {}
    for w = 1, #new do packed_heads[w] = struct.pack('>I4', new[w]) end
    redis.call('SETRANGE', key, 0, table.concat(packed_heads))
  end
end

local tail
if chunk + 1 == chunks then
  tail = struct.pack('<i8i8i8i8I4I4', stop, math.max(arrival, tonumber(ARGV[7])), rebuild, 0, 0, 0)
else
  tail = struct.pack('<i8i8i8i8I4I4', nxt, arrival, rebuild, stop, chunks, chunk + 1)
end
redis.call('SETRANGE', KEYS[1], at + 32, tail)
return {1, string.sub(entry, 1, 32) .. tail}
"""

REPLACE = """
-- KEYS: progress. ARGV: entry offset, the entry expected ('' for absent), the new entry, bytes
--       of all entries together.
-- Writes the entry only over the expected one; returns {1, new} or {0, what stands there}.
local at = tonumber(ARGV[1])
local entry = redis.call('GETRANGE', KEYS[1], at, at + #ARGV[3] - 1)
local absent = #entry < #ARGV[3] or string.sub(entry, 1, 16) == string.rep('\\0', 16)
if (ARGV[2] == '' and not absent) or (ARGV[2] ~= '' and entry ~= ARGV[2]) then return {0, entry} end
-- Its length is always that of all entries, so that a reader sees another partition count.
if redis.call('STRLEN', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('SETRANGE', KEYS[1], ARGV[4] - 1, '\\0')
end
redis.call('SETRANGE', KEYS[1], at, ARGV[3])
return {1, ARGV[3]}
"""

SWEEP = """
-- KEYS: entities. ARGV: per view, the oldest head that anybody can still see, in each window.
-- Deletes the entities all of whose heads are older; returns how many.
local LAYOUT = @LAYOUT@
local deleted = 0
for i = 1, #KEYS do
  local index = tonumber(string.match(KEYS[i], '}:(%d+):'))
  local view = index and LAYOUT[index + 1]
  if view and redis.call('STRLEN', KEYS[i]) == view.size then
    local heads = redis.call('GETRANGE', KEYS[i], 0, view.header - 1)
    local seen = false
    for w = 1, #view.rings do
      local head = struct.unpack('>I4', heads, 4 * w - 3)
      local oldest = struct.unpack('>I4', ARGV[index + 1], 4 * w - 3)
      if head >= oldest then seen = true end
    end
    if not seen then
      redis.call('DEL', KEYS[i])
      deleted = deleted + 1
    end
  end
end
return deleted
"""


def apply_script(layout: Layout) -> str:
    """The script that adds one chunk of a batch and moves progress."""
    return _fill(APPLY, layout)


def sweep_script(layout: Layout) -> str:
    """The script that deletes entities which no reader can see any more."""
    return _fill(SWEEP, layout)


def _fill(script: str, layout: Layout) -> str:
    views = "{" + ",".join(_view(view) for view in layout.views) + "}"
    script = script.replace("@LAYOUT@", views).replace("@ENTRY@", str(ENTRY_BYTES))
    return script.replace("@MAX@", str(_MAX_ARGUMENTS))


def _view(view: View) -> str:
    rings = ",".join(_ring(ring) for ring in view.rings)
    return f"{{size={view.size},header={view.header_bytes},rings={{{rings}}}}}"


def _ring(ring: Ring) -> str:
    types, bits, bit = [], [], 0
    for cell in ring.cells:
        types.append("'i64'" if cell.is_sum else "'u32'")
        bits.append(str(bit))
        bit += 64 if cell.is_sum else 32
    cell_format = "".join("i8" if cell.is_sum else "I4" for cell in ring.cells)
    return (
        f"{{base={ring.offset},length={ring.length},slot={ring.slot_bytes},"
        f"record={HEAD_BYTES + ring.slot_bytes},format='>I4{cell_format}',"
        f"types={{{','.join(types)}}},bits={{{','.join(bits)}}}}}"
    )
