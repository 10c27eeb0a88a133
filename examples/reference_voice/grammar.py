"""Device announcements: templates and slot fillers. A leading `*` marks what only the held-out test sentences use."""

TEMPLATES = """
turn {side} in {distance}
in {distance}, keep {side}
continue on {road} for {distance}
take the {ordinal} exit at the roundabout
*at the traffic light, turn {side} onto {road}
make a u turn when it is safe
you have arrived at {place}
your destination is on the {side}
the next {place} is {distance} away
there is heavy traffic on {road}, expect a delay of {minutes}
a faster route is available and saves {minutes}
*traffic on {road} is moving again
set a timer for {minutes}
your {food} timer is done
{minutes} remaining on the {food} timer
the timer for the {food} was cancelled
*you asked me to check the {food} after {minutes}
alarm set for {time}
your alarm will ring at {time} on {day}
good morning, it is {time}
it is now {time}
*snoozed for {minutes}, the alarm will ring again at {time}
today will be {weather} with a high of {degrees}
expect {weather} weather in {city} on {day}
the temperature outside is {degrees}
tomorrow it will be {weather} in the {daytime}
*a {weather} {daytime} is forecast for {city}
the wind is blowing from the {compass} at {count} miles per hour
there is a {count} percent chance of rain on {day} {daytime}
the {device} in the {room} is {state}
turning the {device} in the {room} {onoff}
the {room} is {degrees}
the {room} window was opened at {time}
*someone is moving in the {room}
the front door is locked and the {device} is {state}
would you like me to turn {onoff} the {device}?
setting the {room} {device} to {count} percent
the battery of the {device} is at {count} percent
*please replace the battery of the {room} {device}
you have {count} new {messages}
you have a meeting with {name} at {time}
{name} moved the meeting to {day} at {time}
your first appointment on {day} is at {time}
*the {event} with {name} starts in {minutes}
remind me to call {name} on {day}
{name} sent you a {colour} picture
a message from {name}, {phrase}
the {event} was moved to room {count}
adding {food} to the shopping list
*there are {count} items on the shopping list
your package will arrive on {day} between {hour} and {hour}
the number is {digits}
your code is {digits}
flight {digits} to {city} leaves from gate {count}
*flight {digits} from {city} is now boarding
the train to {city} leaves from platform {count} at {time}
the {ordinal} stop is {place}
next stop, {place}
*mind the gap, the next station is {place}
the price is {money}
your total comes to {money}
the {colour} {object} costs {money}
*you saved {money} on the {object}
the {object} is next to the {colour} {object}
please put the {object} on the {colour} table
the {animal} ran past the {colour} {object}
did you see the {colour} {animal} near {place}?
*where did {name} leave the {colour} {object}?
{name} and {name} will meet you at {place} on {day}
what time does {place} open on {day}?
is the {object} still in the {room}?
volume set to {count}
playing {colour} {animal} by {name}
now playing music in the {room}
*pausing the music in the {room}
sorry, I did not find {place}
I do not know the answer to that
please say that again
say yes to continue or no to cancel
the update will take about {minutes}
the download of the {object} map is complete
your heart rate is {count} beats per minute
*you walked {count} thousand steps on {day}
drink a glass of water in {minutes}
the pool is {count} meters long and {small} meters deep
warning, the {device} is too hot
please check the {device} before {time}
calling {name} at {place}
{name} lives {distance} from {place}
""".strip().splitlines()

SLOTS = {
    "side": "left, right",
    "road": "main street, oak avenue, the highway, river road, king street, mill lane, park avenue, station "
    "road, the old bridge, church street, forest drive, *harbor street, *maple road, bay boulevard, "
    "hill street, north road, garden lane",
    "place": "the library, the airport, the hospital, the gas station, the school, the bakery, the post office, "
    "the town hall, the central station, the museum, the supermarket, the pharmacy, the hotel, the "
    "beach, the garage, *the theater, *the swimming pool, the coffee shop, the police station, the "
    "market, the university, the bank, the castle, the zoo",
    "food": "pasta, rice, chicken, bread, soup, pizza, egg, potato, cake, *salmon, *lasagna, tea, bean, cookie, "
    "carrot, cheese, milk, butter, apple, banana, onion, tomato, garlic, lemon",
    "day": "monday, tuesday, wednesday, thursday, friday, saturday, sunday, the first of may, the third of "
    "june, *christmas eve, november twentieth, january second, the end of march, february ninth, august "
    "fourteenth",
    "weather": "sunny, cloudy, rainy, windy, foggy, stormy, warm, cold, *chilly, *overcast, snowy, dry, hot, mild, "
    "wet, clear",
    "city": "london, paris, boston, chicago, berlin, madrid, dublin, denver, seattle, *vienna, *toronto, oslo, "
    "rome, sydney, tokyo, new york, houston, miami, atlanta, lisbon, amsterdam",
    "daytime": "morning, afternoon, evening, night",
    "compass": "north, south, east, west, north east, south west",
    "device": "light, heater, fan, lamp, door, camera, thermostat, washing machine, dishwasher, television, "
    "speaker, *oven, *vacuum cleaner, coffee machine, garage door, alarm, printer, radiator, smoke "
    "detector, sensor, phone, router",
    "room": "kitchen, bedroom, living room, bathroom, garage, hallway, office, basement, *attic, *nursery, "
    "garden, dining room, laundry room, guest room, study",
    "state": "on, off, open, closed, locked, offline, connected, running, *unlocked, ready, busy, charging, low",
    "onoff": "on, off",
    "messages": "messages, emails, missed calls, notifications, *invitations, photos, reminders, tasks",
    "name": "anna, peter, maria, john, susan, michael, laura, david, emma, robert, *victoria, *gregory, alice, "
    "thomas, nina, paul, karen, steven, julia, daniel, helen, frank, linda, oliver, rachel, simon, "
    "betty, george",
    "event": "meeting, interview, lesson, concert, lunch, party, *rehearsal, dinner, workshop, class, game, call",
    "colour": "red, green, blue, yellow, black, white, brown, orange, purple, gray, *silver, pink, golden, dark, "
    "bright",
    "phrase": "I will be late, see you soon, call me back, the keys are under the mat, *dinner is almost ready, "
    "happy birthday, can you pick up the kids, do not wait for me, thank you very much, I am on my way, "
    "where are you now",
    "object": "book, chair, bicycle, bottle, jacket, basket, umbrella, camera, ticket, bag, clock, blanket, "
    "*suitcase, *mirror, hammer, ladder, box, pencil, shirt, wallet, guitar, pillow, cup, key, car, "
    "boat, table, knife",
    "animal": "dog, cat, horse, rabbit, bird, fox, *squirrel, cow, sheep, duck, mouse, tiger, monkey, bear, frog, wolf",
}
