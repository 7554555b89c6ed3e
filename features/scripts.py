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
# Lua hashes every byte of every string: a longer value is not worth making there.
_BRIEF_BYTES = 512
# A function of Lua has at most 200.
_MAX_LOCALS = 150

APPLY = """
-- KEYS: progress, then one key per entity.
-- ARGV: entry offset, incarnation, start, end, chunks, chunk, arrival at end, the entities'
--       deltas, one after the other.
-- Returns {1, entry} when applied, {0, entry} when progress stands elsewhere.
local call, take, sub, rep, text = redis.call, struct.unpack, string.sub, string.rep, string.format
local at = tonumber(ARGV[1])
local entry = call('GETRANGE', KEYS[1], at, at + @ENTRY@ - 1)
if #entry < @ENTRY@ or sub(entry, 1, 16) ~= ARGV[2] then return {0, entry} end
local start, stop = tonumber(ARGV[3]), tonumber(ARGV[4])
local chunks, chunk = tonumber(ARGV[5]), tonumber(ARGV[6])
local nxt, arrival, rebuild, batch_end, had_chunks, done = take('<i8i8i8i8I4I4', entry, 33)
if nxt ~= start or done ~= chunk then return {0, entry} end
if batch_end ~= 0 and (batch_end ~= stop or had_chunks ~= chunks) then return {0, entry} end
if batch_end == 0 and chunk ~= 0 then return {0, entry} end

local packed, pos = ARGV[8], 1
-- Redis turns a number into an argument slowly: few different ones are turned here, once.
local digits = setmetatable({}, {__index = function(known, number)
  local string = text('%d', number)
  known[number] = string
  return string
end})
local zeros = setmetatable({}, {__index = function(known, length)
  local string = rep('\\0', length)
  known[length] = string
  return string
end})

local LAYOUT = @LAYOUT@

-- A key of a wrong type or with a foreign value fails here, before anything is written.
local views, heads, starts = {}, {}, {}
for i = 2, #KEYS do
  local index, length = take('>BI4', packed, pos)
  local view = LAYOUT[index + 1]
  views[i], starts[i] = view, pos
  pos = pos + 5 + length
  local old = call('GETRANGE', KEYS[i], '0', view.last_of_header)
  if #old ~= 0 then
    if #old ~= view.header then
      return redis.error_reply('TENUTO ' .. KEYS[i] .. ' has ' .. #old .. ' bytes')
    end
    heads[i] = old
  end
end
starts[#KEYS + 1] = pos

-- The value of a new entity. Of brief ones many are alike: a pair seen once, in the same tile.
local made = setmetatable({}, {__index = function(known, delta)
  local view, at = LAYOUT[string.byte(delta, 1) + 1], 6
  local parts, n = {}, #view
  for w = 1, #view do
    local ring = view[w]
    local tiles, rows, newest = take('>I2', delta, at), {}, -1
    at = at + 2
    for _ = 1, tiles do
      newest = take('>I4', delta, at)
      rows[newest % ring.length] = sub(delta, at + 4, at + ring.record - 1)
      at = at + ring.record
    end
    parts[w] = struct.pack('>I4', newest + 1)
    for s = 0, ring.length - 1 do
      n = n + 1
      parts[n] = rows[s] or zeros[ring.slot]
    end
  end
  local value = table.concat(parts)
  known[delta] = value
  return value
end})

local ops = {'OVERFLOW', 'SAT'}
for i = 2, #KEYS do
  local key, view, old, n = KEYS[i], views[i], heads[i], 2
  pos = starts[i]
  local rings = #view
  if not old then
    if view.brief then
      call('SETRANGE', key, '0', made[sub(packed, pos, starts[i + 1] - 1)])
      rings = 0
    else
      -- The last byte makes a new value as long as it must be.
      ops[3], ops[4], ops[5], ops[6] = 'SET', 'u8', view.last_byte, '0'
      n = 6
    end
  end
  pos = pos + 5
  for w = 1, rings do
    local ring = view[w]
    local tiles, head = take('>I2', packed, pos), 0
    pos = pos + 2
    if old then head = take('>I4', old, 4 * w - 3) end
    local length, slot, record, base = ring.length, ring.slot, ring.record, ring.base
    if tiles > 0 then
      -- Tiles ascend: the last is the newest. Slots jumped over are zeroed before anything is
      -- added, so that what falls out with it is dropped by the same rule as a late delta.
      local newest = take('>I4', packed, pos + (tiles - 1) * record) + 1
      if newest > head then
        if head > 0 then
          local from, to = head % length, newest % length
          if newest - head >= length then
            call('SETRANGE', key, digits[base], zeros[length * slot])
          elseif from < to then
            call('SETRANGE', key, digits[base + from * slot], zeros[(to - from) * slot])
          else
            call('SETRANGE', key, digits[base + from * slot], zeros[(length - from) * slot])
            if to > 0 then call('SETRANGE', key, digits[base], zeros[to * slot]) end
          end
        end
        head = newest
        ops[n + 1], ops[n + 2], ops[n + 3], ops[n + 4] = 'SET', 'u32', ring.head, digits[head]
        n = n + 4
      end
      local add, kept = ring.add, head - length
      for _ = 1, tiles do
        local tile = take('>I4', packed, pos)
        if tile >= kept then
          n = add(packed, pos + 4, 8 * (base + (tile % length) * slot), ops, n)
          if n > @MAX@ then
            call('BITFIELD', key, unpack(ops, 1, n))
            n = 2
          end
        end
        pos = pos + record
      end
    end
  end
  if n > 2 then call('BITFIELD', key, unpack(ops, 1, n)) end
end

local tail
if chunk + 1 == chunks then
  tail = struct.pack('<i8i8i8i8I4I4', stop, math.max(arrival, tonumber(ARGV[7])), rebuild, 0, 0, 0)
else
  tail = struct.pack('<i8i8i8i8I4I4', nxt, arrival, rebuild, stop, chunks, chunk + 1)
end
call('SETRANGE', KEYS[1], at + 32, tail)
return {1, sub(entry, 1, 32) .. tail}
"""

REPLACE = """
-- KEYS: progress. ARGV: entry offset, the entry expected ('' for absent), the new entry, bytes
--       of all entries together.
-- Writes the entry only over the expected one; returns {1, new}, {0, what stands there}, or
-- {2, ''} where there is no progress at all.
local size = redis.call('STRLEN', KEYS[1])
if size == 0 then return {2, ''} end
if size ~= tonumber(ARGV[4]) then
  return redis.error_reply('TENUTO ' .. KEYS[1] .. ' has ' .. size .. ' bytes')
end
local at = tonumber(ARGV[1])
local entry = redis.call('GETRANGE', KEYS[1], at, at + #ARGV[3] - 1)
local absent = string.sub(entry, 1, 16) == string.rep('\\0', 16)
if (ARGV[2] == '' and not absent) or (ARGV[2] ~= '' and entry ~= ARGV[2]) then return {0, entry} end
redis.call('SETRANGE', KEYS[1], at, ARGV[3])
return {1, ARGV[3]}
"""

SWEEP = """
-- KEYS: progress, which names the slot. ARGV: cursor, pattern of the keys, how many to look at,
--       then per view the oldest head that anybody can still see, in each window.
-- Deletes the entities all of whose heads are older. Returns the next cursor, how many it deleted,
-- and per view how many it left, of how many of them it asked the bytes, and these bytes.
local LAYOUT = @LAYOUT@
local call, take = redis.call, struct.unpack
local found = call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local answer, last = {found[1], 0}, {}
for index = 1, #LAYOUT do
  local view = LAYOUT[index]
  last[index] = view.last_of_header
  for w = 1, #view do view[w].oldest = take('>I4', ARGV[index + 3], 4 * w - 3) end
  for field = 0, 2 do answer[3 * index + field] = 0 end
end
local first = #ARGV[2] - 5
for _, key in ipairs(found[2]) do
  local index = tonumber(string.match(key, '^(%d+):', first) or '-1') + 1
  local view = LAYOUT[index]
  if view then
    local heads = call('GETRANGE', key, '0', last[index])
    local seen = #heads ~= view.header
    for w = 1, #view do
      if seen then break end
      seen = take('>I4', heads, 4 * w - 3) >= view[w].oldest
    end
    if seen then
      local at = 3 * index
      answer[at] = answer[at] + 1
      if answer[at] == 1 then
        answer[at + 1], answer[at + 2] = 1, call('MEMORY', 'USAGE', key)
      end
    else
      call('DEL', key)
      answer[2] = answer[2] + 1
    end
  end
end
return answer
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
    rings = ",".join(_ring(at, ring) for at, ring in enumerate(view.rings))
    header, last_bit = view.header_bytes, 8 * (view.size - 1)
    brief = "true" if view.size <= _BRIEF_BYTES else "false"
    return (
        f"{{size={view.size},header={header},last_of_header='{header - 1}',"
        f"brief={brief},last_byte='{last_bit}',{rings}}}"
    )


def _ring(at: int, ring: Ring) -> str:
    return (
        f"{{head='{8 * HEAD_BYTES * at}',base={ring.offset},length={ring.length},"
        f"slot={ring.slot_bytes},record={HEAD_BYTES + ring.slot_bytes},add={_adding(ring)}}}"
    )


def _adding(ring: Ring) -> str:
    """A function that turns a slot's cells, at ``pos``, into additions at ``bit``."""
    lines, at = [], 0
    for first in range(0, len(ring.cells), _MAX_LOCALS):
        cells = ring.cells[first : first + _MAX_LOCALS]
        names = [f"c{i}" for i in range(len(cells))]
        form = "".join("i8" if cell.is_sum else "I4" for cell in cells)
        lines.append(f"do local {','.join(names)}=take('>{form}',packed,pos+{at})")
        for name, cell in zip(names, cells, strict=True):
            kind, size = ("i64", 8) if cell.is_sum else ("u32", 4)
            lines.append(
                f"if {name}~=0 then ops[n+1],ops[n+2],ops[n+3],ops[n+4]="
                f"'INCRBY','{kind}',digits[bit+{8 * at}],digits[{name}] n=n+4 end"
            )
            at += size
        lines.append("end")
    body = "\n".join(lines)
    return f"function(packed,pos,bit,ops,n)\n{body}\nreturn n end"
